"""What `ray_jobs.benchmark` measures."""
