"""
Kamailio's native face: suspended INVITE transactions arrive over the TCP connection of its
module evapi, so that no worker of Kamailio's waits for a phone.

The other end is ``etc/kamailio/middlewared.cfg``; ``docs/kamailio.md`` describes both.
"""
