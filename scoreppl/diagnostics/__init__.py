from scoreppl.diagnostics.curl import LoopDefect, loop_defect
