"""Maps: center lines of roads, their topology, and where images lie on the ground."""
