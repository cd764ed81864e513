"""Where finished runs are shown besides their folders."""
