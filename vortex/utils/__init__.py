"""Small tools that several models share."""
