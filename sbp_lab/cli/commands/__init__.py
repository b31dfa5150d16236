"""The commands of ``sbp``: a file each, found by itself, with a function of the same name."""
