"""A fake worker for tests of applications; they import it as `vortex.testing`."""
