"""Published systems, one file each: their networks only. Nothing here knows how it is trained."""
