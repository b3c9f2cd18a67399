"""URLs of the app: `path("contract/", include("contract_tests.app.urls"))`."""

from django.urls import path

from contract_tests.app import views

urlpatterns = [
    path("person", views.person),
    path("flag", views.flag),
    path("sign-out", views.sign_out),
    path("publish", views.publish),
    path("apublish", views.apublish),
]
