"""One plug-in of every kind that lives outside moex."""
