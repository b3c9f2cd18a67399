from django.contrib.auth.views import LoginView
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import path

from desk import views

urlpatterns = [
    path("login/", LoginView.as_view(template_name="desk/login.html"), name="login"),
    path("wire/", views.WireView.as_view(), name="wire"),
    path("tell/", views.TellView.as_view(), name="tell"),
    path("remind/", views.remind, name="remind"),
    path("latest/<path:facility>/", views.latest, name="latest"),
]
urlpatterns += staticfiles_urlpatterns()
