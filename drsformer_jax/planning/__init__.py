"""What a program costs on a machine that is not there: ahead-of-time compilation, its reader."""
