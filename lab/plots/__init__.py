"""Pictures drawn from report files and from images: nothing here evaluates anything."""
