"""Google's push services: FCM HTTP v1 and the legacy protocol."""
