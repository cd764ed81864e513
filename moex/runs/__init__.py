"""What a run is and leaves: its row, its name, its provenance."""
