"""Routing policies: which experts a token asks for; one file each."""
