"""Word banks in Korean, each phrase with its English partner: written for this project, under its licence."""
