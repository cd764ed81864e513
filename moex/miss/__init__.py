"""What happens to a demanded expert that is absent."""
