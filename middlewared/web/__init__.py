"""HTTP in and out: the held request, the phones' answers, the apps' registrations."""
