"""The finished video: encoded while frames are made, stored whole or not at all."""
