"""What a study found, in numbers and in sentences."""
