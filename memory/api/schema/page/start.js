// Nothing is asked of any other host: no validator, no fonts, no remote documents.
SwaggerUIBundle({
  url: new URL("schema", document.baseURI).href,
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  validatorUrl: null,
});
