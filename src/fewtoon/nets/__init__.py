"""Networks: pure PyTorch, shapes in comments."""
