"""Images to captions: one file a kind of captioner, and one table of them."""
