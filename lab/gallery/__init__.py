"""The shipped gallery: test scenes, clean and attacked, with their truths and licences."""
