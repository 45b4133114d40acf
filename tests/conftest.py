"""What holds for all tests."""

import hypothesis

# A busy machine may take any time for anything: only the property itself is under test.
hypothesis.settings.register_profile("no-deadline", deadline=None, max_examples=50)
hypothesis.settings.load_profile("no-deadline")
