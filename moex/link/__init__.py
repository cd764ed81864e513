"""Links: they move experts into device slots and report when a load has arrived."""
