"""CoDefend: purifies adversarial images in the request path of a multimodal LLM.

The rooms lie at the top of the repository; the links here give them their names as packages
(``codefend.service``, ``codefend.models``, ``codefend.lab``), so that an installation adds one name
to an environment.
"""
