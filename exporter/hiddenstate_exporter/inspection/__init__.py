"""Pictures of what goes on inside of recurrent layers, with their numbers."""
