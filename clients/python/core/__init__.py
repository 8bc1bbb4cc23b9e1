"""The name under which programs of the earlier system import the logger."""
