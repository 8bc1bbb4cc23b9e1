package server

import (
	"net/http"
	"testing"
)

func conforms(t testing.TB, s *Server, req *http.Request, a got) {}
