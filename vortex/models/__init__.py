"""The four models behind small classes, one file each."""
