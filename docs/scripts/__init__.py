"""Scripts that measure the numbers in the documentation and write them where they stand."""
