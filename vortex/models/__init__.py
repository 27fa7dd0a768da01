"""The four models behind small classes, one file or folder each."""
