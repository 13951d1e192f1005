"""What the encoders' parts make of real pictures with real prompts."""
