"""What computes with packed weights: a file each, whose `KERNEL` is it."""
