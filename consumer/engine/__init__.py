"""The one thing that makes slots: inline in this process, or later in a child process."""
