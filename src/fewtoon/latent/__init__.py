"""What a StyleGAN style can draw: pictures by seeds, walks between them, and styles made of two."""
