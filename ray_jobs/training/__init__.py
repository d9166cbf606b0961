"""What a training job is made of: the loop, the engines, the data as workers read it, and what tells how it went."""
