// Package schema knows what requests may look like: it reads OpenAPI documents and
// JSON Schemas, and says of a request where it differs from them.
package schema
