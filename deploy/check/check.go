// Package check holds the Kubernetes manifests beside it to the types of Kubernetes' own API. It is a module of its own, tests
// only, so that those types stay out of what is shipped.
package check
