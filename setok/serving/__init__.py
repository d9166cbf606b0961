"""What a server is made of, without HTTP and without Ray: the engine, what requests mean, and who may make them."""
