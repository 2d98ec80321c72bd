"""Sign-in with an OpenID provider: the protocol, from the redirect to a verified identity.

It answers who somebody is at the provider. Who that is here, and the session that follows, are not its
matter; neither are accounts made up from claims: it asks for the scope `openid` and nothing else.
"""
