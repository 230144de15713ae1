"""What does the built-in miniature know, and how well does a clip of it show and sound?"""
