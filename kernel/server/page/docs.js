// without validatorUrl the page would send the address of this server to its makers' own
"use strict";
SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", validatorUrl: null });
