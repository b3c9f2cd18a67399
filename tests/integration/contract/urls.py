from django.urls import include, path

urlpatterns = [path("contract/", include("contract_tests.app.urls")), path("", include("demo.urls"))]
