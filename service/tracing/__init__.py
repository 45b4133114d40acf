"""OpenTelemetry traces: one span a request, and below it one for every stage; off unless set."""
