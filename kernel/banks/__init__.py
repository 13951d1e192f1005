"""Word banks, prompt banks, and building them."""
