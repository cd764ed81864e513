"""Result rows, run ids, provenance, and atomic writing of files."""
