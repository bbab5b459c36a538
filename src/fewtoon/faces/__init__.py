"""From any picture to aligned faces: who is where (finders), and how a face is cut out and put back."""
