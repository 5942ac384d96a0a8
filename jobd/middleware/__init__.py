"""What stands in front of every handler, unary and streaming alike: who is it, may they, what did they do."""
