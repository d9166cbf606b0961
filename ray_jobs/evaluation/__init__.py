"""What evaluates a checkpoint: replicas, their figures, and the files they leave."""
