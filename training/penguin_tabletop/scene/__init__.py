"""What lies on the table and how it is lit and seen, without pixels."""
