"""What a doctor looks at: one question to a function, each giving findings, all bounded in time."""
